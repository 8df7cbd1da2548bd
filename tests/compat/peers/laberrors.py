"""An exception class that both programs of a conversation know."""


class LabError(Exception):
    def __init__(self, code, text):
        Exception.__init__(self, code, text)
        self.code = code
        self.text = text
