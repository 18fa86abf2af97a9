// In this package because LoadedPlugin can be seen only from here.
package org.elasticsearch.plugins;

import java.util.ArrayList;
import java.util.List;
import org.elasticsearch.env.Environment;

/** Plugins from the class path, where the server itself reads folders of its distribution. */
public final class ClasspathPlugins extends PluginsService {
  // Null while the constructor above this one asks for the plugins.
  private final List<LoadedPlugin> loaded = new ArrayList<>();

  public ClasspathPlugins(Environment environment, PluginsLoader loader, List<Plugin> plugins) {
    super(environment.settings(), environment.configDir(), loader);
    for (Plugin plugin : plugins) {
      String name = plugin.getClass().getName();
      PluginDescriptor descriptor = new PluginDescriptor(
          name, "from the class path", "NA", "0", "17", name, null, List.of(), false, false, false, false);
      loaded.add(new LoadedPlugin(descriptor, plugin, ClasspathPlugins.class.getClassLoader()));
    }
  }

  @Override
  protected List<LoadedPlugin> plugins() {
    return loaded == null ? List.of() : loaded;
  }
}
