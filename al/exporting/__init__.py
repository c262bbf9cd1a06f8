"""`export`: a round's result as other programs read it: adapter, merged model, GGUF, data."""
