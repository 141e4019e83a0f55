#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# plot.sh DIR: makes DIR/simulation.png of what `simulation --out DIR` wrote there. Needs gnuplot.
set -eu
if [ $# -ne 1 ] || [ ! -f "$1/closed.txt" ]; then
  echo "usage: plot.sh DIR, the folder that \`simulation --out DIR\` wrote to" >&2
  exit 2
fi
if ! command -v gnuplot >/dev/null; then
  echo "plot.sh: no gnuplot; install it (Debian: apt-get install gnuplot-nox)" >&2
  exit 1
fi
cd "$1"
gnuplot <<'GNUPLOT'
set terminal pngcairo size 1080,720 font "sans,11"
set output "simulation.png"
set multiplot

# The fields in a row, each over the unit square, lowest row below.
set size 0.31,0.52
set size square
unset key
unset colorbox
unset tics
set cbrange [-0.6:0.6]
set palette defined (0 "#2166ac", 1 "#92c5de", 2 "#f7f7f7", 3 "#f4a582", 4 "#b2182b")
set xrange [0:1]
set yrange [0:1]
do for [panel in "reference plain closed"] {
  file = panel.".txt"
  stats file matrix nooutput name "grid"
  cells = grid_size_x
  place = panel eq "reference" ? 0 : panel eq "plain" ? 1 : 2
  set origin 0.02 + 0.33 * place, 0.47
  set title panel eq "reference" ? sprintf("reference, %d x %d", cells, cells) : \
            panel eq "plain" ? sprintf("plain, %d x %d", cells, cells) : \
            sprintf("with closure, %d x %d", cells, cells)
  plot file matrix using (($1 + 0.5) / cells):(($2 + 0.5) / cells):3 with image
}

set size nosquare
set size 0.49,0.46
set tics
set grid
set autoscale
set origin 0.0,0.0
set key top left Left reverse
set title "error, in parts of the reference"
set xlabel "time"
plot "errors.txt" using 1:2 with lines lw 2 lc "#b2182b" title columnhead(2), \
     "" using 1:4 with lines lw 2 lc "#999999" title columnhead(4), \
     "" using 1:3 with lines lw 2 lc "#2166ac" title columnhead(3)
set origin 0.5,0.0
unset key
set title "loss while the solver ran"
set xlabel "update"
set logscale y
plot "training.txt" using 1:2 with lines lc "#2166ac"
unset multiplot
GNUPLOT
echo "$1/simulation.png"
