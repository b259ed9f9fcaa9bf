"""What a model sees, as sheets of pictures: each is drawn as a PNG or written as an HTML page."""
