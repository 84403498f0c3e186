/* SPDX-License-Identifier: Apache-2.0 */
import de.bwaldvogel.mongo.MongoBackend;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import java.util.Set;
import org.h2.mvstore.MVStore;

/**
 * A MongoDB for tests: Main HOST PORT [DATAFOLDER]. Without a folder all lives in memory. With one,
 * each answer waits for a commit: what a client was told survives a kill of this process. One message
 * at a time then, since a commit amid another's write would keep a document without its entry in an
 * index; but who only asks whether the server lives is answered at once.
 */
public class Main {
    private static final Set<String> LOOKS = Set.of("hello", "isMaster", "ismaster", "ping");

    public static void main(String[] args) throws Exception {
        MongoBackend backend = args.length > 2 ? durable(args[2]) : new MemoryBackend();
        new MongoServer(backend).bind(args[0], Integer.parseInt(args[1]));
        System.out.println("ready");
    }

    private static MongoBackend durable(String folder) {
        String file = folder + "/mongo.mv";
        MVStore store = new MVStore.Builder().fileName(file).autoCommitDisabled()
            .autoCommitBufferSize(0).open();
        return new H2Backend(store) {
            @Override
            public Document handleMessage(MongoMessage message) {
                String command = message.getDocument().keySet().iterator().next();
                if (LOOKS.contains(command))
                    return super.handleMessage(message);
                synchronized (store) {
                    Document answer = super.handleMessage(message);
                    store.commit();
                    return answer;
                }
            }
        };
    }
}
