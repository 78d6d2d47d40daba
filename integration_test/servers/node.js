// A node server as most are: it knows nothing of SIGTERM, and dies of it.
//   /?ms=1500              answers after so long
//   /stream?ms=3000&every=300  answers in pieces
const fs = require('fs');

// With TLS, if there is a certificate.
const pem = process.env.PEM && fs.readFileSync(process.env.PEM);
const create = pem ? (f) => require('https').createServer({ key: pem, cert: pem }, f) : require('http').createServer;

create((req, res) => {
  const url = new URL(req.url, 'http://host');
  const ms = Number(url.searchParams.get('ms') || 0);
  if (url.pathname !== '/stream') {
    setTimeout(() => res.end('done\n'), ms);
    return;
  }
  const end = Date.now() + ms;
  const piece = () => {
    if (Date.now() >= end) {
      res.end('done\n');
      return;
    }
    res.write('piece\n');
    setTimeout(piece, Number(url.searchParams.get('every')));
  };
  piece();
}).listen(Number(process.env.PORT), process.env.HOST);
