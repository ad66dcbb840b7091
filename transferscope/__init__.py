"""transferscope: which source task should I start from?"""

__version__ = "0.1.0"
