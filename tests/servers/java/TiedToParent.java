import java.io.IOException;

/**
 * TiedToParent CLASS ARGUMENT...: runs the main method of another class, and halts the process as soon as standard
 * input ends. The tests hold its other end, so that no server outlives them, however they end.
 */
public final class TiedToParent {
  public static void main(String[] arguments) throws Exception {
    Thread watch = new Thread(TiedToParent::haltWithParent, "tied-to-parent");
    watch.setDaemon(true);
    watch.start();
    String[] rest = java.util.Arrays.copyOfRange(arguments, 1, arguments.length);
    Class.forName(arguments[0]).getMethod("main", String[].class).invoke(null, (Object) rest);
  }

  private static void haltWithParent() {
    try {
      while (System.in.read() >= 0) {
        // Nothing is ever written.
      }
    } catch (IOException gone) {
      // As good as its end.
    }
    Runtime.getRuntime().halt(1);
  }
}
