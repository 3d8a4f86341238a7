"""One answer taken apart: what the artifact says about an image, what is usual, and what in the image decides."""
