"""Plugins found, imported, checked and shipped: strategies and families, built in, installed or dropped in as files.

Nothing comes in here that knows one plugin from another, or what a plugin is used for.
"""
