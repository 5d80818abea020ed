package manifests

import (
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/strvals"
)

func TestBadValuesAreRefused(t *testing.T) {
	for _, c := range []struct{ rule, set, want string }{
		// The schema.
		{"an unknown key", "replicas=3", "'replicas' not allowed"},
		{"a typing error within an object", "edge.replica=3", "'replica' not allowed"},
		{"a typing error deeper down", "edge.tls.enable=true", "'enable' not allowed"},
		{"and in lists of fixed things", "nats.jetstream.dick=1Gi", "'dick' not allowed"},
		{"a string where a number belongs", "edge.replicas=many", "at '/edge/replicas'"},
		{"a negative number", "edge.drainSeconds=-1", "at '/edge/drainSeconds'"},
		{"no drain at all", "edge.drainSeconds=0", "at '/edge/drainSeconds'"},
		{"two NATS servers", "nats.replicas=2", "at '/nats/replicas'"},
		{"an unknown log level", "edge.logLevel=loud", "at '/edge/logLevel'"},
		{"an unknown method", "externalNats.auth.method=kerberos", "at '/externalNats/auth/method'"},
		{"a password in an address", "nats.enabled=false,externalNats.urls={nats://u:p@h:4222}", "at '/externalNats/urls/0'"},
		{"an origin that is none", "edge.origins={www.example.com}", "at '/edge/origins/0'"},
		{"a digest that is none", "image.digest=latest", "at '/image/digest'"},
		{"TLS 1.0", "edge.tls.minVersion=1.0", "at '/edge/tls/minVersion'"},
		{"a lame duck that NATS refuses", "nats.lameDuckSeconds=10", "at '/nats/lameDuckSeconds'"},
		{"a setting of the program that is no name", "edge.config.max-rooms=3", "invalid propertyName 'max-rooms'"},
		{"a setting of NATS that the chart makes", "nats.config.jetstream=true", "invalid propertyName 'jetstream'"},
		{"no policy at all", "policies.rooms=null", "at '/policies'"},
		{"a bad quantity", "nats.jetstream.disk=lots", "at '/nats/jetstream/disk'"},
		{"a scale-down window that Kubernetes refuses", "edge.autoscaling.scaleDownWindowSeconds=9999", "at '/edge/autoscaling/scaleDownWindowSeconds'"},
		// Combinations: what is wrong, and what to change.
		{"a grace that cuts the drain", "edge.terminationGracePeriodSeconds=30", "edge.terminationGracePeriodSeconds is 30: preStopSeconds, drainSeconds and slackSeconds are 50 together"},
		{"two autoscalers", "edge.autoscaling.enabled=true,edge.keda.enabled=true", "Turn one off"},
		{"an autoscaler without a metric", "edge.autoscaling.enabled=true,edge.autoscaling.cpuPercent=0", "neither cpuPercent nor connectionsPerPod"},
		{"bounds the wrong way round", "edge.autoscaling.minReplicas=20", "raise maxReplicas"},
		{"KEDA without Prometheus", "edge.keda.enabled=true", "edge.keda.serverAddress"},
		{"TLS without a certificate", "edge.tls.enabled=true", "edge.tls.existingSecret"},
		{"PROXY protocol from nobody", "edge.proxyProtocol=required", "edge.trustedProxies"},
		{"an Ingress without hosts", "edge.ingress.enabled=true", "edge.ingress.hosts"},
		{"control's, too", "control.ingress.enabled=true", "control.ingress.hosts"},
		{"a route without a gateway", "edge.httpRoute.enabled=true", "edge.httpRoute.parentRefs"},
		{"an Ingress to a port that is closed", "edge.tls.enabled=true,edge.tls.existingSecret=x,edge.ingress.enabled=true,edge.ingress.hosts={a}", "edge.tls.plain is off"},
		{"a setting with a value of its own", "edge.config.drain=5s", "edge.config.drain: the chart sets it"},
		{"of control, too", "control.config.api_key=x", "control.config.api_key: the chart sets it"},
		{"no NATS", "nats.enabled=false", "externalNats.urls is empty"},
		{"two NATS", "externalNats.urls={nats://h:4222}", "turn nats.enabled off"},
		{"a password from nowhere", "nats.enabled=false,externalNats.urls={nats://h:4222},externalNats.auth.method=password", "externalNats.auth.existingSecret"},
		{"another program in the same image", "nats.image.program=nats-server", "nats.image.repository"},
		{"another image without a tag", "nats.image.repository=nats", "nats.image.tag"},
		{"subjects that the role may not use", "edge.config.rpc_prefix=call.", "give nats.permissions.edge, too"},
		{"more copies than servers", "control.natsReplicas=3", "there cannot be more copies than servers"},
		{"generated secrets without a cluster", "global.gitops=true", "control.apiKey.existingSecret"},
		{"generated passwords without a cluster", "global.gitops=true,control.apiKey.existingSecret=x", "nats.auth.existingSecret"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			v, err := strvals.Parse(c.set)
			if err != nil {
				t.Fatal(err)
			}
			_, err = render(t, v, installed())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("--set %s: %v\nwant …%s…", c.set, err, c.want)
			}
		})
	}
}

func TestGoodValuesAreTaken(t *testing.T) {
	for _, set := range []string{
		"global.anything.of.other.charts=1", "edge.terminationGracePeriodSeconds=50", "edge.config.max_rooms=3", "nats.config.debug=true",
		"edge.autoscaling.enabled=true,edge.autoscaling.cpuPercent=0,edge.autoscaling.connectionsPerPod=100", "edge.pdb.minAvailable=1",
		"nats.replicas=5,control.natsReplicas=5", "nats.enabled=false,externalNats.urls={tls://h:4222}", "edge.strategy.maxSurge=1", "tests.enabled=false",
	} {
		v, err := strvals.Parse(set)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := render(t, v, installed()); err != nil {
			t.Errorf("--set %s: %v", set, err)
		}
	}
}
