"""One depth map a frame from all that is said of it, corrected where points were triangulated, and how far it is to be believed."""
