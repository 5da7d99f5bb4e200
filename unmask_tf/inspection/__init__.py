"""Single images: `system` classifies, attacks and aligns, `picture` draws it, `command` is the command line."""
