"""Writes the published attacks on readers of pickles: the files in ``pickle/`` and their index.

    python tests/corpus/make_pickles.py

Each attack is put together from instructions here, after what was published about
it; nothing of it was ever run by the one who wrote it, and most can do no harm where
this is not the reader that they were made for. ``index.tsv`` has a line for each: the file,
``refused`` or ``data`` (if what is read is plain data after all), and where it is from.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["CORPUS", "Attack", "attacks", "main"]

CORPUS = Path(__file__).resolve().parent / "pickle"

#: What the harmful ones would run, if anything did.
SHELL = "touch snakemq_was_here"
CODE = "open('snakemq_was_here', 'w').close()"


class Attack(NamedTuple):
    name: str
    data: bytes
    source: str
    outcome: str = "refused"


# Instructions.


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def line_text(value: str) -> bytes:
    return b"S" + repr(value).encode("ascii") + b"\n"


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def constant(value: object) -> bytes:
    """A plain value as instructions that every protocol has."""
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"I01\n" if value else b"I00\n"
    if isinstance(value, int):
        return number(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, (tuple, list)):
        end = b"t" if isinstance(value, tuple) else b"l"
        return b"(" + b"".join(map(constant, value)) + end
    assert isinstance(value, dict), value
    return b"(" + b"".join(constant(key) + constant(each) for key, each in value.items()) + b"d"


def split(name: str) -> tuple[str, str]:
    """Module and attribute; the attribute is behind the last dot, or behind a colon."""
    if ":" in name:
        module, _, attribute = name.partition(":")
    else:
        module, _, attribute = name.rpartition(".")
    return module, attribute


def by_line(name: str) -> bytes:
    """GLOBAL."""
    module, attribute = split(name)
    return b"c" + f"{module}\n{attribute}\n".encode("utf-8", "surrogatepass")


def by_stack(name: str) -> bytes:
    """STACK_GLOBAL."""
    module, attribute = split(name)
    return text(module) + text(attribute) + b"\x93"


def call(function: bytes, *args: object) -> bytes:
    return function + constant(args) + b"R"


# The ways in which a name can be called.


def way_reduce(name: str, args: tuple[object, ...]) -> bytes:
    return call(by_line(name), *args) + b"."


def way_protocol_0(name: str, args: tuple[object, ...]) -> bytes:
    written = b"".join(
        line_text(arg) if isinstance(arg, str) and arg.isascii() else constant(arg) for arg in args
    )
    return by_line(name) + b"(" + written + b"tR."


def way_protocol_2(name: str, args: tuple[object, ...]) -> bytes:
    return b"\x80\x02" + by_line(name) + b"q\x00" + constant(args) + b"q\x01Rq\x02."


def way_stack_global(name: str, args: tuple[object, ...]) -> bytes:
    body = call(by_stack(name), *args) + b"\x94."
    return b"\x80\x04\x95" + struct.pack("<Q", len(body)) + body


def way_protocol_5(name: str, args: tuple[object, ...]) -> bytes:
    return b"\x80\x05" + call(by_stack(name), *args) + b"."


def way_inst(name: str, args: tuple[object, ...]) -> bytes:
    module, attribute = split(name)
    inst = b"i" + f"{module}\n{attribute}\n".encode()
    return b"(" + b"".join(map(constant, args)) + inst + b"."


def way_obj(name: str, args: tuple[object, ...]) -> bytes:
    return b"(" + by_line(name) + b"".join(map(constant, args)) + b"o."


def way_newobj(name: str, args: tuple[object, ...]) -> bytes:
    return b"\x80\x02" + by_line(name) + constant(args) + b"\x81."


def way_newobj_ex(name: str, args: tuple[object, ...]) -> bytes:
    return b"\x80\x04" + by_stack(name) + constant(args) + b"}\x92."


def way_hidden_in_data(name: str, args: tuple[object, ...]) -> bytes:
    """As a value in a dictionary that looks like a model."""
    return b"\x80\x02}" + text("weights") + call(by_line(name), *args) + b"s."


def way_thrown_away(name: str, args: tuple[object, ...]) -> bytes:
    """Called, dropped from the stack, and followed by harmless data."""
    return b"\x80\x02" + call(by_line(name), *args) + b"0" + constant([1, 2, 3]) + b"."


def way_broken_afterwards(name: str, args: tuple[object, ...]) -> bytes:
    """Called before the pickle turns out to be broken: scanners that parse all of it give up."""
    return b"\x80\x02" + call(by_line(name), *args) + b"\xff\xfe not a pickle any more"


def way_without_end(name: str, args: tuple[object, ...]) -> bytes:
    return b"\x80\x02" + call(by_line(name), *args)


def way_names_by_memo(name: str, args: tuple[object, ...]) -> bytes:
    """STACK_GLOBAL with its texts from the memo, which hides them from who looks back."""
    module, attribute = split(name)
    stored = text(attribute) + b"\x94" + text(module) + b"\x94" + b"00"
    return b"\x80\x04" + stored + b"h\x01h\x00\x93" + constant(args) + b"R."


Way = Callable[[str, "tuple[object, ...]"], bytes]
MAIN_WAYS: dict[str, Way] = {"reduce": way_reduce, "stack-global": way_stack_global}
ALL_WAYS: dict[str, Way] = {
    name.removeprefix("way_").replace("_", "-"): way
    for name, way in list(globals().items())
    if name.startswith("way_")
}

# The names, by family: what they call, with what, and who wrote about it.

PYTHON_DOCS = "Python documentation of pickle, first warning: os.system"
SLAVIERO = "M. Slaviero, Sour Pickles, Black Hat 2011"
FICKLING = "fickling (Trail of Bits): list of unsafe imports"
PICKLESCAN = "picklescan: list of dangerous globals"
BYPASS = "picklescan: published bypasses of its list (CVE-2025-1716 and other advisories of 2025)"
MODELSCAN = "ModelScan (Protect AI): list of unsafe operators"
TORCH = "attacks on model files of PyTorch and NumPy (picklescan, JFrog research)"
PICKLEBALL = "Hugging Face pickle scanning: dangerous imports"

FAMILIES: dict[str, tuple[str, dict[str, tuple[object, ...]]]] = {
    "shell": (PYTHON_DOCS, {
        "os.system": (SHELL,), "posix.system": (SHELL,), "nt.system": (SHELL,),
        "os.popen": (SHELL,), "posix.popen": (SHELL,), "commands.getoutput": (SHELL,),
        "os.execv": ("/bin/sh", ["sh", "-c", SHELL]), "os.spawnv": (0, "/bin/sh", ["sh"]),
        "os.posix_spawn": ("/bin/sh", ["sh"], {}), "os.startfile": ("x",),
    }),
    "subprocess": (MODELSCAN, {
        "subprocess.Popen": (SHELL,), "subprocess.run": (SHELL,), "subprocess.call": (SHELL,),
        "subprocess.check_output": (SHELL,), "subprocess.getoutput": (SHELL,),
        "subprocess.getstatusoutput": (SHELL,), "_posixsubprocess.fork_exec": (["sh"],),
        "_winapi.CreateProcess": ("x",), "pty.spawn": (["sh"],),
        "asyncio.create_subprocess_shell": (SHELL,),
        "asyncio.unix_events._UnixSubprocessTransport._start": (SHELL,),
        "asyncio.windows_utils.Popen": (SHELL,),
        "multiprocessing.util.spawnv_passfds": (b"/bin/sh", [b"sh"], []),
        "multiprocessing.process.BaseProcess": (),
        "distutils.spawn.spawn": (["sh"],), "distutils.util.execute": (1, ()),
    }),
    "builtins": (SLAVIERO, {
        "builtins.eval": (CODE,), "builtins.exec": (CODE,), "builtins.compile": (CODE, "x", "exec"),
        "builtins.getattr": ("x", "upper"), "builtins.__import__": ("antigravity",),
        "builtins.open": ("snakemq_was_here", "w"), "builtins.input": (),
        "builtins.breakpoint": (), "builtins.globals": (), "builtins.delattr": ("x", "y"),
        "builtins.type": ("X", (), {}), "builtins.map": (None, []), "builtins.filter": (None, []),
        "__builtin__.eval": (CODE,), "__builtin__.execfile": ("x",), "__builtin__.apply": (1, ()),
        "__builtin__.file": ("snakemq_was_here", "w"),
        "__builtin__.reduce": (1, []),
    }),
    "indirection": (FICKLING, {
        "operator.attrgetter": ("system",), "operator.itemgetter": (0,),
        "operator.methodcaller": ("system", SHELL), "_operator.attrgetter": ("system",),
        "_operator.methodcaller": ("system", SHELL), "functools.partial": (1,),
        "functools.reduce": (1, []), "_functools.reduce": (1, []), "itertools.starmap": (1, []),
        "types.CodeType": (0,), "types.FunctionType": (0, {}), "types.MethodType": (0, 0),
        "types.ModuleType": ("x",), "weakref.finalize": (1, 2), "atexit.register": (1,),
        "copyreg.add_extension": ("os", "system", 1), "copyreg._extension_registry.update": ({},),
        "copyreg.__newobj_ex__": (1, (), {}), "gc.get_objects": (),
        "inspect.getattr_static": ("x", "upper"), "unittest.mock._importer": ("antigravity",),
    }),
    "running code": (BYPASS, {
        "runpy._run_code": (CODE, {}), "runpy.run_path": ("x.py",), "runpy.run_module": ("x",),
        "code.InteractiveInterpreter.runcode": (0, CODE), "code.interact": (),
        "codeop.compile_command": (CODE,), "bdb.Bdb.run": (0, CODE), "pdb.run": (CODE,),
        "pdb.Pdb.runeval": (0, CODE), "timeit.timeit": (CODE,), "timeit.repeat": (CODE,),
        "timeit.main": (["-n1", CODE],), "cProfile.run": (CODE,), "cProfile.runctx": (CODE, {}, {}),
        "profile.run": (CODE,), "profile.Profile.runctx": (0, CODE, {}, {}),
        "trace.Trace.run": (CODE,),
        "trace.Trace.runctx": (0, CODE, {}, {}), "doctest.debug_script": (CODE,),
        "ensurepip._run_pip": (["install", "x"],), "pip.main": (["install", "x"],),
        "pip._internal.cli.main.main": (["install", "x"],), "venv.main": (["x"],),
        "idlelib.pyshell.ModifiedInterpreter.runcode": (0, CODE),
        "idlelib.run.Executive.runcode": (0, CODE),
        "idlelib.debugobj.ObjectTreeItem.SetText": (0, CODE),
        "idlelib.calltip.get_entity": (CODE,),
        "idlelib.autocomplete.AutoComplete.get_entity": (0, CODE),
        "lib2to3.pgen2.pgen.ParserGenerator.make_label": (0, 0, CODE),
        "lib2to3.pgen2.grammar.Grammar.loads": (0, b""),
        "test.support.script_helper.assert_python_ok": ("-c", CODE),
        "pydoc.pipepager": ("x", SHELL), "pydoc.tempfilepager": ("x", SHELL),
        "pydoc.locate": ("antigravity",), "pkgutil.resolve_name": ("os:system",),
        "dataclasses._create_fn": ("f", [], [CODE]), "collections.namedtuple": ("X", CODE),
        "typing.get_type_hints": (1,), "ast.literal_eval": ("1",), "tokenize.main": (),
    }),
    "loading": (FICKLING, {
        "importlib.import_module": ("antigravity",), "importlib.reload": (1,),
        "importlib.machinery.SourceFileLoader": ("x", "x.py"), "imp.load_source": ("x", "x.py"),
        "importlib.util.spec_from_file_location": ("x", "x.py"), "zipimport.zipimporter": ("x",),
        "pickle.loads": (b"cos\nsystem\n.",), "_pickle.loads": (b"N.",), "pickle.load": (0,),
        "pickle.Unpickler": (0,), "cPickle.loads": (b"N.",), "dill.loads": (b"N.",),
        "cloudpickle.loads": (b"N.",), "joblib.load": ("x",), "shelve.open": ("x",),
        "marshal.loads": (b"N",), "marshal.load": (0,), "pandas.read_pickle": ("x",),
        "ctypes.CDLL": ("libc.so.6",), "ctypes.cdll.LoadLibrary": ("libc.so.6",),
        "ctypes.string_at": (0,), "ctypes.CFUNCTYPE": (None,), "_ctypes.dlopen": ("libc.so.6", 0),
        "cffi.FFI": (), "mmap.mmap": (-1, 2**30), "sys.setprofile": (1,), "sys.settrace": (1,),
        "sys.exit": (1,), "sys.modules.get": ("os",), "signal.raise_signal": (9,), "os._exit": (1,),
        "os.kill": (0, 9), "os.abort": (),
    }),
    "files": (MODELSCAN, {
        "os.remove": ("x",), "os.mkdir": ("snakemq_was_here",), "os.rename": ("x", "y"),
        "os.symlink": ("x", "snakemq_was_here"), "os.putenv": ("X", "y"), "os.chmod": ("x", 0),
        "shutil.rmtree": ("x",), "shutil.move": ("x", "y"), "shutil.copyfile": ("x", "y"),
        "tempfile.mkdtemp": (), "tempfile.NamedTemporaryFile": (), "pathlib.Path": ("x",),
        "pathlib.Path.write_text": ("x", "y"), "io.open": ("snakemq_was_here", "w"),
        "_io.FileIO": ("snakemq_was_here", "w"), "codecs.open": ("snakemq_was_here", "w"),
        "distutils.file_util.write_file": ("snakemq_was_here", []), "fileinput.input": (["x"],),
        "linecache.getlines": ("/etc/passwd",), "linecache.getline": ("/etc/passwd", 1),
        "logging.FileHandler": ("snakemq_was_here",), "sqlite3.connect": ("snakemq_was_here",),
        "dbm.open": ("snakemq_was_here", "c"), "zipfile.ZipFile": ("snakemq_was_here", "w"),
        "tarfile.open": ("x",), "logging.config.fileConfig": ("x",),
        "logging.config.dictConfig": ({},), "logging.config.listen": (0,),
    }),
    "network": (BYPASS, {
        "socket.socket": (), "socket.create_connection": (("127.0.0.1", 1),),
        "ssl.get_server_certificate": (("127.0.0.1", 1),), "http.client.HTTPConnection": ("x",),
        "http.client.HTTPSConnection": ("x",), "httplib.HTTPSConnection": ("x",),
        "urllib.request.urlopen": ("http://127.0.0.1:1",), "urllib.request.Request": ("x",),
        "urllib.request.urlretrieve": ("file:///etc/passwd",), "urllib2.urlopen": ("x",),
        "requests.get": ("http://127.0.0.1:1",), "requests.api.post": ("http://127.0.0.1:1",),
        "aiohttp.client.ClientSession": (), "smtplib.SMTP": ("127.0.0.1",), "ftplib.FTP": ("x",),
        "telnetlib.Telnet": ("x",), "poplib.POP3": ("x",), "imaplib.IMAP4": ("x",),
        "webbrowser.open": ("http://127.0.0.1:1",), "xmlrpc.client.ServerProxy": ("x",),
        "multiprocessing.connection.Client": ("127.0.0.1",), "socketserver.TCPServer": (1,),
        "wsgiref.simple_server.make_server": ("", 0, 1), "http.server.test": (),
    }),
    "libraries": (TORCH, {
        "numpy.testing._private.utils.runstring": (CODE, {}),
        "numpy.f2py.crackfortran.getlincoef": (CODE, {}),
        "numpy.f2py.crackfortran._eval_length": (CODE, {}),
        "numpy.f2py.diagnose.run_command": (SHELL,), "numpy.load": ("x",),
        "numpy.core.multiarray._reconstruct": (1, (0,), b"b"), "numpy.ufunc": (),
        "torch._inductor.codecache.compile_file": ("x",), "torch.hub.load": ("x", "y"),
        "torch.load": ("x",), "torch._utils._rebuild_tensor_v2": (), "torch.jit.load": ("x",),
        "torch.jit.unsupported_tensor_ops.execWrapper": (CODE, {}, {}),
        "torch.utils.bottleneck.__main__.run_autograd_prof": (CODE, {}),
        "torch.utils.bottleneck.__main__.run_cprofile": (CODE, {}),
        "torch.utils.collect_env.run": (SHELL,),
        "torch.utils.data.datapipes.utils.decoder.basichandlers": (),
        "torch.serialization.load": ("x",), "torch.storage._load_from_bytes": (b"",),
        "torch.distributed.rpc._run_function": (1,),
        "torch.fx.experimental.symbolic_shapes.ShapeEnv": (),
        "tensorflow.io.read_file": ("x",), "keras.models.load_model": ("x",),
        "keras.layers.Lambda": (1,), "sympy.parsing.sympy_parser.eval_expr": (CODE, {}, {}),
        "sklearn.utils._testing._delete_folder": ("x",), "dill._dill._create_function": (1,),
        "cloudpickle.cloudpickle._builtin_type": ("x",), "yaml.unsafe_load": ("x",),
        "django.core.management.call_command": ("shell",), "twisted.python.procutils.which": ("x",),
        "jinja2.Template": ("{{ 7*7 }}",), "mako.template.Template": ("x",),
        "celery.app.task.Task": (), "gevent.subprocess.Popen": (SHELL,), "sh.Command": ("sh",),
        "pexpect.spawn": ("sh",), "paramiko.ProxyCommand": ("sh",),
    }),
    "our own": ("this project: what its reader might be thought to know", {
        "snakemq.rpc.safe_pickle:pickle.loads": (b"N.",), "snakemq.rpc.register_type": (1,),
        "snakemq.rpc.errors.error_of": ("x", 1), "snakemq.exceptions:annotations": (),
        "snakemq.Peer": ("mallory",), "snakemq.rpc.SAFE_PICKLE": (),
        "snakemq.rpc._known_types.stand_in": ("a", "b"),
        "snakemq.rpc:RemoteError.__reduce__": (1,), "snakemq.link.Link": (),
        "snakemq.storage.open_storage": ("x",),
        "datetime:sys.exit": (1,), "uuid:os.system": (SHELL,), "uuid._load_system_functions": (),
        "decimal:_sys.exit": (1,), "fractions:re.compile": ("x",), "collections:_sys.exit": (1,),
        "types:DynamicClassAttribute": (1,), "_codecs.decode": (b"x", "zip"),
        "_codecs.lookup": ("x",),
    }),
}  # fmt: skip

#: Names that are not what they look like.
TRICKS = {
    "os\x00.system": "a NUL behind the name of the module",
    "builtins\x00.eval": "the same of builtins",
    "builtins.eval\x00": "a NUL behind the name",
    "builtins.eval ": "a space behind the name",
    " builtins.eval": "a space before the module",
    "Builtins.eval": "upper case",
    "b\u0443iltins.eval": "a Cyrillic letter",
    "builtins.\uff45val": "a full-width letter, which identifiers are normalised from",
    "builtins.e\u200bval": "a zero-width space",
    "builtins.ev\ud800al": "half of a surrogate pair",
    ".eval": "no module",
    "builtins.": "no name",
    "os.path:os.system": "a way out of an allowed module",
    "builtins:str.__class__.__base__": "a way up by attributes",
    "builtins:ValueError.__init__.__globals__": "the same by an exception",
    "builtins:dict.fromkeys": "a method of an allowed class",
    "builtins:object.__subclasses__": "the same of object",
    "datetime:datetime.now": "the same of a standard value",
    "../os.system": "a path",
    "os:sys.modules": "a module in a module",
    "__main__:__builtins__.eval": "by way of the program",
}


def attacks() -> Iterator[Attack]:
    """All of them, each with a name of its own."""
    for family, (source, names) in FAMILIES.items():
        for index, (name, args) in enumerate(names.items()):
            # All ways with the first of each family, two with the others.
            ways = ALL_WAYS if not index else MAIN_WAYS
            for way, make in ways.items():
                file = f"{family}-{name}-{way}".replace(" ", "_").replace(":", ".")
                yield Attack(file, make(name, args), source)
    for index, (name, what) in enumerate(TRICKS.items()):
        source = f"names that scanners misread (fickling, picklescan advisories): {what}"
        yield Attack(f"trick-{index:02}-stack-global", way_stack_global(name, (CODE,)), source)
        if "\n" not in name:
            yield Attack(f"trick-{index:02}-reduce", way_reduce(name, (CODE,)), source)
    yield from _instructions()
    yield from _programs()


def _instructions() -> Iterator[Attack]:
    slots = "pickle instructions that are calls of their own (Python pickletools)"
    system = by_line("os.system")
    error = by_line("builtins.ValueError")
    yield Attack("persid", b"Pos.system\n.", slots)
    yield Attack("binpersid", text("os.system") + b"Q.", slots)
    for code, size in ((b"\x82", 1), (b"\x83", 2), (b"\x84", 4)):
        yield Attack(f"ext{size}", b"\x80\x02" + code + b"\x01".ljust(size, b"\0") + b".", slots)
    yield Attack("next-buffer", b"\x80\x05\x97.", slots)
    yield Attack("readonly-buffer", b"\x80\x05]\x98.", slots)
    yield Attack(
        "build-setstate", error + b")R}" + text("__setstate__") + system + b"sb}b.", SLAVIERO
    )
    yield Attack("build-class", error + b")R}" + text("__class__") + system + b"sb.", FICKLING)
    yield Attack("build-dict-of-class", error + b"}" + text("__str__") + system + b"sb.", FICKLING)
    yield Attack("build-slots", error + b")RN}" + text("args") + system + b"s\x86b.", FICKLING)
    yield Attack("build-module", by_line("os.path") + b"}" + text("x") + b"K\x01sb.", FICKLING)
    yield Attack("setitem-on-global", by_line("sys.modules") + text("os") + b"Ns.", SLAVIERO)
    yield Attack("append-on-global", by_line("sys.path") + text("/tmp") + b"a.", SLAVIERO)
    yield Attack(
        "additems-on-global", b"\x80\x04" + by_line("sys.flags") + b"(K\x01\x90.", FICKLING
    )
    yield Attack("function-as-data", b"]" + system + b"a.", PICKLESCAN)
    yield Attack("function-as-key", b"}" + system + b"K\x01s.", PICKLESCAN)
    yield Attack("function-in-exception", error + system + b"\x85R.", PICKLESCAN)
    yield Attack(
        "function-as-factory", by_line("collections.defaultdict") + system + b"\x85R.", SLAVIERO
    )
    yield Attack("class-as-data", error + b".", PICKLESCAN)
    yield Attack("reconstructor", call(by_line("copyreg._reconstructor"), 1, 2, 3) + b".", SLAVIERO)
    yield Attack("reconstruct-function", by_line("copyreg._reconstructor") + b"(" + system
                 + by_line("builtins.object") + b"NtR.", SLAVIERO)  # fmt: skip
    chain = by_line("builtins.getattr") + b"(" + error + text("__class__") + b"tR."
    yield Attack("getattr-chain", chain, "getattr of getattr, as in many published exercises")
    yield Attack("map-over-system", by_line("builtins.tuple") + b"(" + by_line("builtins.map")
                 + b"(" + system + b"]" + text(SHELL) + b"atRtR.", PICKLEBALL)  # fmt: skip


def _programs() -> Iterator[Attack]:
    size = "announced sizes that do not come: CPython gh-115952"
    for name, code, packed in (
        ("binbytes8", b"\x8e", struct.pack("<Q", 2**62)),
        ("binunicode8", b"\x8d", struct.pack("<Q", 2**62)),
        ("bytearray8", b"\x96", struct.pack("<Q", 2**62)),
        ("binbytes", b"B", struct.pack("<I", 2**32 - 1)),
        ("binunicode", b"X", struct.pack("<I", 2**32 - 1)),
        ("binstring", b"T", struct.pack("<i", 2**31 - 1)),
        ("binstring-negative", b"T", struct.pack("<i", -1)),
        ("long4", b"\x8b", struct.pack("<i", 2**31 - 1)),
        ("long4-negative", b"\x8b", struct.pack("<i", -1)),
        ("frame", b"\x95", struct.pack("<Q", 2**62)),
    ):
        yield Attack(f"size-{name}", b"\x80\x05" + code + packed + b"x.", size)
    memo = "memory by memo indices: CVE-2018-20406, CPython gh-115952"
    yield Attack("memo-long-binput", b"\x80\x02Nr\xff\xff\xff\x7f.", memo)
    yield Attack("memo-put", b"Np2147483647\n.", memo)
    yield Attack("memo-put-long", b"Np" + b"9" * 40 + b"\n.", memo)
    yield Attack("memo-get-absent", b"\x80\x02h\x05.", memo)
    yield Attack("memo-long-binget-absent", b"\x80\x02j\xff\xff\xff\x7f.", memo)
    damaged = "damaged pickles, as from fuzzing"
    yield Attack("stack-underflow", b"0000R.", damaged)
    yield Attack("mark-underflow", b"tttt.", damaged)
    yield Attack("dup", b"]" + b"2" * 100 + b"l.", "DUP, which no pickler writes")
    yield Attack(
        "deep-lists",
        b"]" * 50_000 + b"a" * 49_999 + b".",
        "nesting: bpo-1103 and others",
    )
    yield Attack("deep-tuples", b")" + b"\x85" * 50_000 + b".", "nesting: recursion in C")
    laughs = "billion laughs, as in XML (CVE-2003-1564), by memo"
    lists = b"\x80\x04](K\x01e\x94"
    keys = b"\x80\x04}K\x01\x85\x94"
    for index in range(40):
        ref = b"h" + bytes([index])
        lists += b"0](" + ref + ref + b"e\x94"
        keys += b"0" + ref + ref + b"\x86\x94"
    yield Attack("laughs-lists", lists + b".", laughs)
    yield Attack("laughs-key", keys + b"K\x01s.", laughs)
    hashes = "keys with one hash: CVE-2012-1150"
    for name, before, after in (("dict", b"}(", b"u."), ("set", b"\x8f(", b"\x90.")):
        values = b"".join(
            b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little", signed=True)
            + (b"N" if name == "dict" else b"")
            for n in range(1, 2000)
        )  # fmt: skip
        yield Attack(f"hashes-{name}", b"\x80\x04" + before + values + after, hashes)
    digits = "numbers with too many digits: CVE-2020-10735"
    yield Attack("digits-int", b"I" + b"9" * 100_000 + b"\n.", digits)
    yield Attack("digits-long", b"L" + b"9" * 100_000 + b"L\n.", digits)
    yield Attack(
        "digits-fraction", call(by_line("fractions.Fraction"), "1e999999999") + b".", digits
    )
    stop = "data behind STOP, which scanners that read on report: the reader stops there"
    yield Attack(
        "garbage-after-stop", b"\x80\x02K\x01." + way_reduce("os.system", (SHELL,)), stop, "data"
    )
    yield Attack("two-pickles", b"N." + way_stack_global("os.system", (SHELL,)), stop, "data")
    yield Attack("unused-text", b"\x80\x04" + text("os") + text("system") + b"0.", stop, "data")
    yield Attack("no-pickle", b"PK\x03\x04 a zip file as PyTorch writes it", TORCH)
    yield Attack("empty", b"", damaged)
    yield Attack("newer-protocol", b"\x80\x06N.", damaged)


def main(folder: Path = CORPUS) -> int:
    """Write all of them; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# file\toutcome\tpublished in, or family\n"]
    for attack in attacks():
        (folder / f"{attack.name}.pkl").write_bytes(attack.data)
        lines.append(f"{attack.name}.pkl\t{attack.outcome}\t{attack.source}\n")
    (folder / "index.tsv").write_text("".join(lines), "utf-8", newline="\n")
    return len(lines) - 1


if __name__ == "__main__":
    print(main(), "files", file=sys.stderr)
