import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.opensearch.analysis.common.CommonAnalysisPlugin;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.painless.PainlessPlugin;
import org.opensearch.plugins.Plugin;
import org.opensearch.transport.Netty4Plugin;

/**
 * EmbeddedMain HOME HTTP_PORT TRANSPORT_PORT: one node of OpenSearch on 127.0.0.1, with its data below HOME. The
 * launcher of the distribution is not among the artifacts of Maven.
 */
public final class EmbeddedMain {
  private static final String NODE = "tests";

  /** A node with plugins from the class path. */
  private static final class EmbeddedNode extends Node {
    EmbeddedNode(Environment environment, Collection<Class<? extends Plugin>> plugins) {
      super(environment, plugins, false);
    }
  }

  public static void main(String[] arguments) throws Exception {
    Path home = Path.of(arguments[0]).toAbsolutePath();
    Files.createDirectories(home.resolve("config"));
    Settings settings = Settings.builder()
        .put("path.home", home.toString())
        .put("path.data", home.resolve("data").toString())
        .put("path.logs", home.resolve("logs").toString())
        .put("cluster.name", "soundmill-tests")
        .put("node.name", NODE)
        .put("network.host", "127.0.0.1")
        .put("http.port", arguments[1])
        .put("transport.port", arguments[2])
        .put("discovery.type", "single-node")
        .put("transport.type", "netty4")
        .put("http.type", "netty4")
        // A disk that is nearly full would make every index read-only.
        .put("cluster.routing.allocation.disk.threshold_enabled", false)
        // It counts garbage, of which a small heap with this collector may be full, and would refuse requests for it.
        .put("indices.breaker.total.use_real_memory", false)
        .build();
    List<Class<? extends Plugin>> plugins =
        List.of(Netty4Plugin.class, PainlessPlugin.class, CommonAnalysisPlugin.class);
    Environment environment = InternalSettingsPreparer.prepareEnvironment(settings, Map.of(), null, () -> NODE);
    Node node = new EmbeddedNode(environment, plugins);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> close(node)));
    node.start();
    new CountDownLatch(1).await();
  }

  private static void close(Node node) {
    try {
      node.close();
    } catch (IOException error) {
      error.printStackTrace();
    }
  }
}
