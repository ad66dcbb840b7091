"""The embedded default: a tiny masked language model and eight tasks, made by one text generator."""
