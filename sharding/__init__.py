"""Cubes in, shards out: catalog, readers, cube store, WebDataset shards, records. Importing it loads nothing heavy."""
