import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;

/** An embedded Tomcat without a shutdown hook, as its documentation's example has none. */
public class TomcatApp {
    static final Logger ROOT = Logger.getLogger("");

    public static void main(String[] args) throws Exception {
        ROOT.setLevel(Level.OFF);
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir("/tmp/tomcat");
        tomcat.setPort(8080);
        tomcat.getConnector();
        Context context = tomcat.addContext("", "/tmp");
        Tomcat.addServlet(context, "app", new App());
        context.addServletMappingDecoded("/", "app");
        tomcat.start();
        tomcat.getServer().await();
    }

    static class App extends HttpServlet {
        @Override
        protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
            try {
                String text = request.getParameter("ms");
                int ms = text == null ? 0 : Integer.parseInt(text);
                boolean stream = request.getServletPath().equals("/stream");
                if (!stream) {
                    Thread.sleep(ms);
                }
                for (; stream && ms > 0; ms -= 200) {
                    response.getOutputStream().print("piece\n");
                    response.flushBuffer();
                    Thread.sleep(200);
                }
                response.getOutputStream().print("done\n");
            } catch (InterruptedException e) {
                throw new IOException(e);
            }
        }
    }
}
