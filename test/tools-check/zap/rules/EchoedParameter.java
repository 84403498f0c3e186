/* SPDX-License-Identifier: Apache-2.0 */
package rules;

import java.io.IOException;
import org.parosproxy.paros.core.scanner.AbstractAppParamPlugin;
import org.parosproxy.paros.core.scanner.Alert;
import org.parosproxy.paros.core.scanner.Category;
import org.parosproxy.paros.network.HttpMessage;

/** Active: a tag that is sent in a parameter comes back as it was. */
public class EchoedParameter extends AbstractAppParamPlugin {
    private static final String TAG = "<cworker0>";

    @Override
    public int getId() {
        return 40012;
    }

    @Override
    public String getName() {
        return "Cross Site Scripting (Reflected)";
    }

    @Override
    public String getDescription() {
        return "What a parameter holds is shown without being escaped.";
    }

    @Override
    public int getCategory() {
        return Category.INJECTION;
    }

    @Override
    public String getSolution() {
        return "Escape what is shown.";
    }

    @Override
    public String getReference() {
        return "";
    }

    @Override
    public int getRisk() {
        return Alert.RISK_HIGH;
    }

    @Override
    public int getCweId() {
        return 79;
    }

    @Override
    public int getWascId() {
        return 8;
    }

    @Override
    public void scan(HttpMessage message, String param, String value) {
        setParameter(message, param, TAG);
        try {
            sendAndReceive(message);
        } catch (IOException e) {
            return; // a request that fails shows nothing
        }
        if (message.getResponseBody().toString().contains(TAG)) {
            newAlert()
                    .setConfidence(Alert.CONFIDENCE_MEDIUM)
                    .setParam(param)
                    .setAttack(TAG)
                    .setEvidence(TAG)
                    .setMessage(message)
                    .raise();
        }
    }
}
