"""Tables as hospitals export them: readers, cells, columns, rows, the mapping to a study's
features."""
