"""An application of Flask-Shell2HTTP, as its documentation has it: `python -m shell2http_app PORT`."""

import logging
import sys

from flask import Flask
from flask_executor import Executor
from flask_shell2http import Shell2HTTP

logging.disable()
app = Flask(__name__)
executor = Executor(app)
shell2http = Shell2HTTP(app=app, executor=executor, base_url_prefix="/commands/")
shell2http.register_command(endpoint="sh", command_name="sh")

if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(sys.argv[1]), threaded=True)
