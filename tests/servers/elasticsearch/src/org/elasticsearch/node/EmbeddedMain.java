// In this package because NodeConstruction and NodeServiceProvider can be seen only from here.
package org.elasticsearch.node;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.plugins.ClasspathPlugins;
import org.elasticsearch.plugins.PluginsLoader;
import org.elasticsearch.plugins.PluginsService;
import org.elasticsearch.transport.netty4.Netty4Plugin;

/**
 * EmbeddedMain HOME HTTP_PORT TRANSPORT_PORT: one node of Elasticsearch on 127.0.0.1, with its data below HOME. The
 * launcher of the distribution is not among the artifacts of Maven.
 */
public final class EmbeddedMain {
  static final String NODE = "tests";
  static final String CLUSTER = "soundmill-tests";

  public static void main(String[] arguments) throws Exception {
    Path home = Path.of(arguments[0]).toAbsolutePath();
    Files.createDirectories(home.resolve("config"));
    LogConfigurator.configureESLogging();
    Settings settings = Settings.builder()
        .put("path.home", home.toString())
        .put("path.data", home.resolve("data").toString())
        .put("path.logs", home.resolve("logs").toString())
        .put("cluster.name", CLUSTER)
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
    Environment environment = InternalSettingsPreparer.prepareEnvironment(settings, Map.of(), null, () -> NODE);
    PluginsLoader none = PluginsLoader.createPluginsLoader(Set.of(), Set.of(), Map.of(), false);
    NodeServiceProvider services = new NodeServiceProvider() {
      @Override
      PluginsService newPluginService(Environment given, PluginsLoader loader) {
        return new ClasspathPlugins(given, loader, List.of(new Netty4Plugin(), new RootPlugin()));
      }
    };
    Node node = new Node(NodeConstruction.prepareConstruction(environment, none, services, true));
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
