"""Looking at models: what is in a graph, how fast it is, where its time goes, and how two of them differ."""
