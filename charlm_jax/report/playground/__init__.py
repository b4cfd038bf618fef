"""The playground: one offline HTML file that runs a model, in plain JavaScript."""
