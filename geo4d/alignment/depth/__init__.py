"""One depth map a frame fused from all candidates, corrected where points were triangulated, and its confidence."""
