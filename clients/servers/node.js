// A node server as most are: it knows nothing of SIGTERM, and dies of it.
//   /?ms=1500                        answers after so long
//   /stream?ms=3000&every=300        answers in pieces
//   /hints?ms=3000                   103 Early Hints, then the answer
// With TLS in its environment it speaks that.
const fs = require('fs');
const http = require('http');
const https = require('https');

const serve = (req, res) => {
  const url = new URL(req.url, 'http://host');
  const ms = Number(url.searchParams.get('ms') || 0);
  if (url.pathname === '/hints') {
    res.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
  }
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
    setTimeout(piece, Math.min(Number(url.searchParams.get('every')), end - Date.now()));
  };
  piece();
};

const server = process.env.TLS
  ? https.createServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }, serve)
  : http.createServer(serve);
// As behind balancers: longer than theirs.
server.keepAliveTimeout = 75000;
server.listen(Number(process.env.PORT));
