"""From a film to a prediction, a picture, a file."""
