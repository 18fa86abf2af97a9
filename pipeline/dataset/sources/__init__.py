"""Where files come from: folders, globs, lists, archives, URLs; and what can be told of a file before it is decoded."""
