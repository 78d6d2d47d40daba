// A node server. Without HANDLER in its environment it knows nothing of SIGTERM.
const http = require('http');
const crypto = require('crypto');

const server = http.createServer((req, res) => {
  const url = new URL(req.url, 'http://host');
  const ms = Number(url.searchParams.get('ms') || 0);
  req.resume();
  if (url.pathname !== '/stream') {
    setTimeout(() => res.end('done\n'), ms);
    return;
  }
  const end = Date.now() + ms;
  const piece = () => {
    if (Date.now() >= end) return res.end('done\n');
    res.write('piece\n');
    setTimeout(piece, 200);
  };
  piece();
});

// A WebSocket that pings each 5 s and echoes short texts: node has no server of
// its own for them.
server.on('upgrade', (req, socket) => {
  const key = req.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
    `Sec-WebSocket-Accept: ${crypto.createHash('sha1').update(key).digest('base64')}\r\n\r\n`);
  let buffer = Buffer.alloc(0);
  const pings = setInterval(() => socket.write(Buffer.from([0x89, 0])), 5000);
  socket.on('error', () => {});
  socket.on('close', () => clearInterval(pings));
  socket.on('data', (data) => {
    buffer = Buffer.concat([buffer, data]);
    while (buffer.length >= 6 && buffer.length >= 6 + (buffer[1] & 127)) {
      const opcode = buffer[0] & 15;
      const length = buffer[1] & 127;
      const text = Buffer.from(buffer.subarray(6, 6 + length).map((b, i) => b ^ buffer[2 + i % 4]));
      buffer = buffer.subarray(6 + length);
      if (opcode === 10) continue; // a pong
      socket.write(Buffer.concat([Buffer.from([128 | opcode, length]), text]));
      if (opcode === 8) socket.end();
    }
  });
});

server.keepAliveTimeout = 75000; // longer than the balancer's
server.listen(8080, '0.0.0.0');
if (process.env.HANDLER) process.on('SIGTERM', () => server.close(() => process.exit(0)));
