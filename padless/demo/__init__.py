"""The command `padless demo`: a model that highlights source code."""
