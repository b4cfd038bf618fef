"""HTML pages: markup, charts as SVG, and text coloured by a value per character."""
