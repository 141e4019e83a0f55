# SPDX-License-Identifier: Apache-2.0
# awk -f filter.awk <header>: what Doxygen reads of a header, line for line.
# The header goes into the group of its floor; namespaces `detail` are left out; the paragraphs of
# our docstrings (`Shape:`, `Cost:`, ...) get their titles, and indented lines become code.

FNR == 1 {
  floor = FILENAME
  sub(/.*\/shardexpr\//, "", floor)
  sub(/\/.*/, "", floor)
  open = " /** @addtogroup " floor " */ /** @{ */"
}
# Members of a namespace are of a group that is opened within it; macros are outside.
/^(inline )?namespace [a-z:]+ \{$/ && !/detail/ { $0 = $0 open }
/^}  \/\/ namespace / && !/detail/ { $0 = "/** @} */ " $0 }
FILENAME ~ /\/macros\.hpp$/ && FNR == 1 { $0 = open }
FILENAME ~ /\/macros\.hpp$/ && /^#endif/ { $0 = $0 "\n/** @} */" }

# Left out: internals, friends, and where an axis names its standard policy.
/^namespace ([a-z]+::)*detail(::[a-z]+)? \{/ { hidden = "^}  // namespace .*detail" }
/^template <>$/ {
  print before
  before = ""
  getline
  if (/^struct axis_traits<axis::/) hidden = "^};"
  else $0 = "template <> " $0
}
!hidden && /^ +friend (class|struct) [^{]*;$/ { $0 = "" }
/^  using axis = axis::[A-Za-z]+;$/ { $0 = $0 "  ///< what it decides" }
/^ +friend .*operator==\(.* = default;$/ { $0 = $0 "  ///< by members" }
hidden {
  if ($0 ~ hidden) hidden = ""
  $0 = ""
}

# Several members in one declaration: what explains them explains each.
/^ *\/\/\/ / {
  above = above $0
  sub(/ *\/\/\/ /, " ", above)
}
/^ +(static constexpr )?[A-Za-z_0-9:<>]+ [a-z_0-9]+( = [^,;(]*)?(, [a-z_0-9]+( = [^,;(]*)?)+;/ {
  beside = /\/\/\/< / ? $0 : ""
  sub(/.*\/\/\/</, "", beside)
  explained = beside above
  if (explained != "") {
    sub(/;.*/, "")
    members = split($0, member, ", ")
    type = member[1]
    sub(/[a-z_0-9]+( = .*)?$/, "", type)
    $0 = member[1] (beside ? "; /**<" beside " */" : ";")
    for (i = 2; i <= members; ++i) $0 = $0 type member[i] "; /**<" explained " */"
  }
}
!/^ *\/\/\// { above = "" }

# Lines indented by three spaces are code, or a table.
{ was_code = in_code }
{ in_code = /^ *\/\/\/   [^ ]/ || (was_code && /^ *\/\/\/    +[^ ]/) }
in_code { gsub(/`/, "") }
in_code && was_code { sub(/\/\/\/ /, "///") }
in_code && !was_code { sub(/\/\/\/ /, "/// @code{.cpp} ") }
was_code && !in_code { before = before " @endcode" }

# The paragraphs of a docstring.
/^ *\/\/\/ / {
  sub(/\/\/\/ Shapes?: */, "/// @shape ")
  sub(/\/\/\/ Units?: */, "/// @units ")
  sub(/\/\/\/ Order: */, "/// @order ")
  sub(/\/\/\/ Errors?: */, "/// @errors ")
  sub(/\/\/\/ Cost: */, "/// @cost ")
  sub(/\/\/\/ Source: */, "/// @source ")
}

# Doxygen 1.9 does not miss the docstring of a concept.
/^template </ { is_explained = before ~ /^\/\/\// }
/^concept / && !is_explained {
  print FILENAME ":" FNR ": warning: Concept " $2 " is not documented." > "/dev/stderr"
}

FNR > 1 { print before }
{ before = $0 }
END { print before }
