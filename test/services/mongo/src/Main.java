/* SPDX-License-Identifier: Apache-2.0 */
import de.bwaldvogel.mongo.MongoBackend;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import org.h2.mvstore.MVStore;

/**
 * A MongoDB for tests: Main HOST PORT [DATAFOLDER]. Without a folder all lives in memory. With one, a
 * thread commits every 2 ms: what a client was told 2 ms ago survives a kill.
 */
public class Main {
    public static void main(String[] args) throws Exception {
        MongoBackend backend = args.length > 2 ? durable(args[2]) : new MemoryBackend();
        new MongoServer(backend).bind(args[0], Integer.parseInt(args[1]));
        System.out.println("ready");
    }

    private static MongoBackend durable(String folder) {
        MVStore store = new MVStore.Builder().fileName(folder + "/mongo.mv").autoCommitDisabled().open();
        Thread committer = new Thread(() -> commitForEver(store), "commit");
        committer.setDaemon(true);
        committer.start();
        return new H2Backend(store);
    }

    private static void commitForEver(MVStore store) {
        while (true) {
            try {
                store.commit();
                Thread.sleep(2);
            } catch (Throwable e) {
                e.printStackTrace();
                Runtime.getRuntime().halt(1);
            }
        }
    }
}
