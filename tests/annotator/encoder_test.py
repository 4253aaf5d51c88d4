"""sibyl-encoder-server as a process: its embeddings against those of the Python original, and its answers to bad requests.

encoder_reference.json is made by make_encoder_reference.py.
"""

import base64
import http.client
import json
import pathlib
import re
import signal
import subprocess
import sys
import unittest

import numpy

PROGRAM = sys.argv.pop(1)
REFERENCE = pathlib.Path(__file__).with_name("encoder_reference.json")


class EncoderServerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = subprocess.Popen([PROGRAM, "--port=0", "--nice=0"], stderr=subprocess.PIPE, text=True)
        cls.addClassCleanup(cls.end)
        line = cls.server.stderr.readline()
        cls.port = int(re.search(r"at http://127\.0\.0\.1:(\d+)", line).group(1))

    @classmethod
    def end(cls):
        if cls.server.poll() is None:
            cls.server.kill()
        cls.server.wait()
        cls.server.stderr.close()

    def setUp(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.addCleanup(self.connection.close)

    def request(self, method, path, body=None, headers={}):
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        return response.status, response.read().decode()

    def embed(self, texts):
        status, body = self.request("POST", "/v1/embeddings", json.dumps({"model": "any", "input": texts}))
        self.assertEqual(status, 200, body)
        return json.loads(body)

    def test_embeddings_are_those_of_the_python_original(self):
        reference = json.loads(REFERENCE.read_text())
        sentences = reference["sentences"]
        self.assertGreaterEqual(len(sentences), 100)
        expected = numpy.frombuffer(base64.b64decode(reference["embeddings"]), "<f4").reshape(len(sentences), -1)
        answer = self.embed(sentences)
        self.assertEqual([row["index"] for row in answer["data"]], list(range(len(sentences))))
        found = numpy.array([row["embedding"] for row in answer["data"]])
        self.assertEqual(found.shape, expected.shape)
        worst = numpy.abs(found - expected).max(1)
        print(f"largest difference {worst.max():.2e}, of {sentences[worst.argmax()]!r}")
        for sentence, difference in zip(sentences, worst):
            self.assertLess(difference, 1e-4, sentence)

    def test_a_text_alone_and_a_list_give_the_same(self):
        one = self.embed("You open the door.")
        two = self.embed(["You pick up a key.", "You open the door."])
        self.assertEqual(one["data"][0]["embedding"], two["data"][1]["embedding"])
        self.assertEqual(one["usage"]["prompt_tokens"], 7)  # [CLS] you open the door . [SEP]
        self.assertEqual(two["model"], "all-MiniLM-L6-v2")

    def test_bad_requests_are_refused_and_the_server_goes_on(self):
        for body in ("", "{", "[]", "3", "{}", '{"input": 3}', '{"input": []}', '{"input": ["a", 3]}', b"\xff\xfe", "[" * 100000):
            status, answer = self.request("POST", "/v1/embeddings", body)
            self.assertEqual(status, 400, answer)
            self.assertIn("`input`", json.loads(answer)["error"]["message"])
        status, answer = self.request("POST", "/v1/embeddings", headers={"Content-Length": str(5 << 20)})
        self.assertEqual(status, 413, answer)
        self.assertEqual(self.request("POST", "/v1/chat/completions", "{}")[0], 404)
        self.assertEqual(self.request("GET", "/nothing")[0], 404)
        self.assertEqual(self.request("GET", "/health")[0], 200)
        self.assertRegex(self.request("GET", "/metrics")[1], r'sibyl_encoder_requests_total\{result="refused"\} [1-9]')

    def test_a_port_that_is_taken_is_an_error_with_its_reason(self):
        ended = subprocess.run([PROGRAM, f"--port={self.port}"], stderr=subprocess.PIPE, text=True, timeout=60)
        self.assertEqual(ended.returncode, 1)
        self.assertIn(f"cannot listen on 127.0.0.1:{self.port}", ended.stderr)

    def test_sigterm_ends_it_with_status_0(self):
        server = subprocess.Popen([PROGRAM, "--port=0"], stderr=subprocess.PIPE, text=True)
        try:
            self.assertIn("serves", server.stderr.readline())
            server.send_signal(signal.SIGTERM)
            self.assertEqual(server.wait(timeout=60), 0)
        finally:
            server.kill()
            server.wait()
            server.stderr.close()


if __name__ == "__main__":
    unittest.main()
