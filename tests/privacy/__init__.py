"""What is sensitive stays on this machine."""
