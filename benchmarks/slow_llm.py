#!/usr/bin/env python3
"""A fake LLM that takes its time: an OpenAI-compatible server on 127.0.0.1 that answers every request with one label.

    benchmarks/slow_llm.py --port 8000 --seconds 5

It stands in for a large model where only its slowness matters.
"""
import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seconds = 5.0
    label = "helpful"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.seconds)
        message = {"role": "assistant", "content": f"It happened.\nIt may matter.\nLabel: {self.label}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220}
        body = json.dumps({"id": "0", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=5, help="that each answer takes")
    parser.add_argument("--label", default="helpful")
    options = parser.parse_args()
    Answers.seconds, Answers.label = options.seconds, options.label
    ThreadingHTTPServer(("127.0.0.1", options.port), Answers).serve_forever()


if __name__ == "__main__":
    main()
