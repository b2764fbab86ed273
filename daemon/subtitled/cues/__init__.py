"""From what the model said to what a viewer reads; pure."""
