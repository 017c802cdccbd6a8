"""Ways to show a diagnosis. Faces receive one immutable object and compute nothing."""
