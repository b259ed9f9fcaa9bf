"""Page to look at an embedded data set: map, thumbnails, neighbours, duplicates, outliers."""
