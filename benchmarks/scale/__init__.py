"""What is large: grids, and a distribution against a whole data set; a module and a JSON of results for each."""
