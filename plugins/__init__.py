"""The built-in strategies and families, one file each; the file stem is the name. Found by being here."""
