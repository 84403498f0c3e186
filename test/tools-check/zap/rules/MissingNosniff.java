/* SPDX-License-Identifier: Apache-2.0 */
package rules;

import net.htmlparser.jericho.Source;
import org.parosproxy.paros.core.scanner.Alert;
import org.parosproxy.paros.network.HttpMessage;
import org.zaproxy.zap.extension.pscan.PassiveScanThread;
import org.zaproxy.zap.extension.pscan.PluginPassiveScanner;

/** Passive: an answer without X-Content-Type-Options. */
public class MissingNosniff extends PluginPassiveScanner {
    private static final String HEADER = "X-Content-Type-Options";

    @Override
    public String getName() {
        return HEADER + " Header Missing";
    }

    @Override
    public int getPluginId() {
        return 10021;
    }

    @Override
    public void setParent(PassiveScanThread parent) {}

    @Override
    public void scanHttpRequestSend(HttpMessage message, int id) {}

    @Override
    public void scanHttpResponseReceive(HttpMessage message, int id, Source source) {
        if (message.getResponseHeader().getHeader(HEADER) == null) {
            newAlert()
                    .setRisk(Alert.RISK_LOW)
                    .setConfidence(Alert.CONFIDENCE_MEDIUM)
                    .setParam(HEADER)
                    .setDescription("The browser is left to guess the content's type.")
                    .setSolution("Send it with the value nosniff.")
                    .setCweId(16)
                    .setWascId(15)
                    .raise();
        }
    }
}
