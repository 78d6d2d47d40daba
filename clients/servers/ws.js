// WebSockets that the server pings, as socket.io does: node ws.js MILLISECONDS
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({ port: Number(process.env.PORT) });
server.on('connection', (ws) => {
  const timer = setInterval(() => ws.ping(), Number(process.argv[2]));
  ws.on('close', () => clearInterval(timer));
  ws.on('error', () => {});
});
