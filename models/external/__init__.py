"""Labels from somebody else's machines: a folder that asks for them, and the results that come back."""
