"""HTTP below the handlers: connections, bodies, parameters, responses, streams, problems."""
