"use strict";
// Calls methods of a snakemq peer whose RpcServer reads JSON, in plain Node.js.
// The protocol, and the forms of values in JSON: docs/reference/protocol.rst.
//
// Against a server:    python3 examples/rpc_json.py 4000 &
//                      node examples/rpc_client.js 4000
// In another program:  const { Client } = require("./rpc_client.js");

const { randomBytes } = require("node:crypto");
const net = require("node:net");

const [VERSION, INCOMPATIBLE, IDENTIFICATION, MESSAGE, PING, PONG] = [0, 1, 2, 3, 4, 5];
const MAX_PACKET = 1 << 26;

class RemoteError extends Error {
  constructor({ exception, exception_format: traceback, code }) {
    const known = exception && exception.class;
    super(known ? exception.args.map(String).join(", ") : String(exception));
    this.name = known || "RemoteError"; // such as builtins.ZeroDivisionError
    this.args = known ? exception.args : [];
    this.traceback = traceback; // of the other side, a text
    this.code = code; // why the call failed, if it was not the method
  }
}

// Values that JSON has no form for are objects with one key that begins with $.
function encode(key, value) {
  // Buffers and dates come here as what their toJSON makes of them.
  const original = this[key];
  if (Buffer.isBuffer(original)) return { $bytes: original.toString("base64") };
  if (original instanceof Date) return { $datetime: original.toISOString() };
  if (original instanceof Set) return { $set: [...original] };
  if (original instanceof Map) return { $dict: [...original] };
  if (typeof original === "bigint") return { $int: String(original) };
  if (typeof original === "number" && !Number.isFinite(original)) {
    return { $float: String(original).toLowerCase().replace("infinity", "inf") };
  }
  const keys = value && typeof value === "object" ? Object.keys(value) : [];
  if (keys.length === 1 && keys[0].startsWith("$")) return { $dict: Object.entries(value) };
  return value;
}

const DECODERS = {
  $bytes: (text) => Buffer.from(text, "base64"),
  $tuple: (items) => items,
  $set: (items) => new Set(items),
  $dict: (pairs) => new Map(pairs),
  $int: BigInt,
  $float: (text) => Number(text.replace("inf", "Infinity")),
  $datetime: (text) => new Date(text),
};

function decode(key, value) {
  const keys = value && typeof value === "object" ? Object.keys(value) : [];
  if (keys.length !== 1 || !Object.hasOwn(DECODERS, keys[0])) return value;
  return DECODERS[keys[0]](value[keys[0]]);
}

class Client {
  // Connect, and resolve when the peer there has told its identifier.
  static connect(port, host, ident) {
    return new Promise((resolve, reject) => new Client(port, host, ident, resolve, reject));
  }

  constructor(port, host, ident, onConnected, onFailed) {
    this.calls = new Map(); // [resolve, reject, timer] by req_id
    this.received = Buffer.alloc(0);
    this.onConnected = onConnected;
    this.socket = net.connect(port, host);
    this.socket.setNoDelay(true);
    this.socket.on("data", (data) => this.onData(data));
    this.socket.on("error", (error) => (this.error = error));
    this.socket.on("close", () => {
      const error = this.error || new Error("the connection is closed");
      onFailed(error);
      for (const reqId of this.calls.keys()) this.end(reqId, error);
    });
    this.send(VERSION, Buffer.from([0, 0, 0, 1]));
    this.send(IDENTIFICATION, Buffer.from(ident));
  }

  send(type, ...payload) {
    const frame = Buffer.concat([Buffer.from([type]), ...payload]);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(frame.length);
    this.socket.write(Buffer.concat([length, frame]));
  }

  onData(data) {
    this.received = Buffer.concat([this.received, data]);
    while (this.received.length >= 4) {
      const length = this.received.readUInt32BE();
      if (length === 0 || length > MAX_PACKET) return this.close("a packet that is not for us");
      if (this.received.length < 4 + length) return;
      const frame = this.received.subarray(4, 4 + length);
      this.received = this.received.subarray(4 + length);
      this.onFrame(frame[0], frame.subarray(1));
    }
  }

  onFrame(type, payload) {
    if (type === VERSION && !payload.equals(Buffer.from([0, 0, 0, 1]))) {
      this.send(INCOMPATIBLE);
      this.close("the peer speaks another version");
    } else if (type === INCOMPATIBLE) this.close("the peer speaks another version");
    else if (type === IDENTIFICATION) this.onConnected(this);
    else if (type === PING) this.send(PONG);
    else if (type === MESSAGE && payload.subarray(24, 30).equals(Buffer.from("rpcrep"))) {
      if (payload[30] !== 0x7b) return this.close("no JSON: the server has another pickler");
      const reply = JSON.parse(payload.subarray(30).toString(), decode);
      this.end(reply.req_id, reply.ok ? null : new RemoteError(reply), reply.return);
    } // Other frames are not for us, and ignored.
  }

  call(object, method, args = [], kwargs = {}, seconds = 30) {
    const req_id = randomBytes(16).toString("hex");
    const record = { command: "call", object, method, args, kwargs, req_id };
    return new Promise((resolve, reject) => {
      const late = () => this.end(req_id, new Error(`no reply within ${seconds} seconds`));
      this.calls.set(req_id, [resolve, reject, setTimeout(late, 1000 * seconds)]);
      const data = Buffer.from("rpcreq" + JSON.stringify(record, encode));
      this.send(MESSAGE, randomBytes(16), Buffer.alloc(8), data);
    });
  }

  end(reqId, error, value) {
    const [resolve, reject, timer] = this.calls.get(reqId) || [];
    if (!this.calls.delete(reqId)) return; // too late, or made up
    clearTimeout(timer);
    error ? reject(error) : resolve(value);
  }

  close(why) {
    if (why) this.error = new Error(why);
    this.socket.end();
  }
}

async function main(port) {
  const client = await Client.connect(port, "127.0.0.1", "javascript");
  const show = (error) => console.log(`${error.name}: ${error.message}\n${error.traceback || ""}`);
  console.log("2 + 40 =", await client.call("calc", "add", [2, 40]));
  console.log(await client.call("calc", "echo", [Buffer.from("bytes"), { nested: [1.5, null] }]));
  await client.call("calc", "divide", [1, 0]).catch(show);
  await client.call("calc", "missing").catch(show);
  client.close();
}

module.exports = { Client, RemoteError };
if (require.main === module) main(Number(process.argv[2] || 4000));
