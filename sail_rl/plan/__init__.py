"""Everything that is checked before a model loads."""
