"""A whole SGLang engine on the CPU."""
