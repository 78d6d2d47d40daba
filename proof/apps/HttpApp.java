import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/** The JDK's own HTTP server. SIGTERM ends the virtual machine in the middle of it. */
public class HttpApp {
    public static void main(String[] args) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(8080), 512);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", HttpApp::answer);
        server.start();
    }

    static int ms(String query) {
        return query == null ? 0 : Integer.parseInt(query.replaceAll("\\D", ""));
    }

    static void answer(HttpExchange x) throws IOException {
        try (x) {
            x.getRequestBody().readAllBytes();
            int ms = ms(x.getRequestURI().getQuery());
            boolean stream = x.getRequestURI().getPath().equals("/stream");
            if (!stream) {
                Thread.sleep(ms);
            }
            x.sendResponseHeaders(200, stream ? 0 : 5);
            for (; stream && ms > 0; ms -= 200) {
                x.getResponseBody().write("piece\n".getBytes(StandardCharsets.UTF_8));
                x.getResponseBody().flush();
                Thread.sleep(200);
            }
            x.getResponseBody().write("done\n".getBytes(StandardCharsets.UTF_8));
        } catch (InterruptedException e) {
            throw new IOException(e);
        }
    }
}
