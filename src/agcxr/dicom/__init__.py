"""Results as DICOM objects, and a network node that makes them."""
