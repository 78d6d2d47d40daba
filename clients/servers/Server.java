// A Java server with a thread a request. It has no shutdown hook, and ends at
// once on SIGTERM. With the argument tls it speaks that.
//   /?ms=1500   answers after so long

import com.sun.net.httpserver.*;
import java.io.*;
import java.net.*;
import java.security.*;
import java.util.concurrent.*;
import javax.net.ssl.*;

public class Server {
    public static void main(String[] args) throws Exception {
        var address = new InetSocketAddress(Integer.parseInt(System.getenv("PORT")));
        HttpServer server;
        if (args.length > 0) {
            var https = HttpsServer.create(address, 128);
            https.setHttpsConfigurator(new HttpsConfigurator(context()));
            server = https;
        } else {
            server = HttpServer.create(address, 128);
        }
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", Server::answer);
        server.start();
    }

    static void answer(HttpExchange exchange) throws IOException {
        var query = exchange.getRequestURI().getQuery();
        try {
            if (query != null) Thread.sleep(Long.parseLong(query.substring("ms=".length())));
        } catch (InterruptedException e) {
            throw new IOException(e);
        }
        exchange.sendResponseHeaders(200, 5);
        try (var body = exchange.getResponseBody()) {
            body.write("done\n".getBytes());
        }
    }

    static SSLContext context() throws Exception {
        var secret = "secret".toCharArray();
        var keys = KeyStore.getInstance("PKCS12");
        try (var file = new FileInputStream("both.p12")) {
            keys.load(file, secret);
        }
        var factory = KeyManagerFactory.getInstance("SunX509");
        factory.init(keys, secret);
        var context = SSLContext.getInstance("TLS");
        context.init(factory.getKeyManagers(), null, null);
        return context;
    }
}
