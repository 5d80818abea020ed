package manifests

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// kinds are those that the chart may render.
var kinds = map[string]func() any{
	"v1 ConfigMap":                            func() any { return new(corev1.ConfigMap) },
	"v1 Pod":                                  func() any { return new(corev1.Pod) },
	"v1 Secret":                               func() any { return new(corev1.Secret) },
	"v1 Service":                              func() any { return new(corev1.Service) },
	"v1 ServiceAccount":                       func() any { return new(corev1.ServiceAccount) },
	"apps/v1 Deployment":                      func() any { return new(appsv1.Deployment) },
	"apps/v1 StatefulSet":                     func() any { return new(appsv1.StatefulSet) },
	"autoscaling/v2 HorizontalPodAutoscaler":  func() any { return new(autoscalingv2.HorizontalPodAutoscaler) },
	"networking.k8s.io/v1 Ingress":            func() any { return new(networkingv1.Ingress) },
	"networking.k8s.io/v1 NetworkPolicy":      func() any { return new(networkingv1.NetworkPolicy) },
	"policy/v1 PodDisruptionBudget":           func() any { return new(policyv1.PodDisruptionBudget) },
	"gateway.networking.k8s.io/v1 HTTPRoute":  func() any { return new(gatewayv1.HTTPRoute) },
	"monitoring.coreos.com/v1 PodMonitor":     func() any { return new(monitoringv1.PodMonitor) },
	"monitoring.coreos.com/v1 ServiceMonitor": func() any { return new(monitoringv1.ServiceMonitor) },
	"monitoring.coreos.com/v1 PrometheusRule": func() any { return new(monitoringv1.PrometheusRule) },
	"keda.sh/v1alpha1 ScaledObject":           nil, // its types come with all of KEDA: only the YAML is checked
}

// object is what all have.
type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string
	Metadata   struct {
		Name, Namespace string
		Labels          map[string]string
	}
}

func TestObjectsFitTheirTypes(t *testing.T) {
	seen := map[string]bool{}
	for name, v := range cases(t) {
		ids := map[string]bool{}
		for _, doc := range documents(mustRender(t, v)) {
			var o object
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatalf("%s: %v in\n%s", name, err, doc)
			}
			kind := o.APIVersion + " " + o.Kind
			seen[kind] = true
			make, ok := kinds[kind]
			if !ok {
				t.Errorf("%s: %s is not in the table of kinds", name, kind)
			} else if make != nil {
				if err := yaml.UnmarshalStrict([]byte(doc), make()); err != nil {
					t.Errorf("%s: %s %s: %v", name, kind, o.Metadata.Name, err)
				}
			}
			if id := kind + " " + o.Metadata.Namespace + "/" + o.Metadata.Name; ids[id] {
				t.Errorf("%s: %s twice", name, id)
			} else {
				ids[id] = true
			}
			if o.Metadata.Name != "rel-extra" && (o.Metadata.Labels["app.kubernetes.io/instance"] != release || o.Metadata.Namespace == "") {
				t.Errorf("%s: %s %s has no labels or no namespace", name, kind, o.Metadata.Name)
			}
		}
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("no set of values in ci/ renders a %s", kind)
		}
	}
}

// podSpecs are the pods of a render, by name.
func podSpecs(t *testing.T, files map[string]string) map[string]corev1.PodSpec {
	t.Helper()
	pods := map[string]corev1.PodSpec{}
	for _, doc := range documents(files) {
		var o struct {
			object
			Spec struct {
				Template *struct{ Spec corev1.PodSpec }
			}
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		switch {
		case o.Kind == "Pod":
			var p corev1.Pod
			if err := yaml.Unmarshal([]byte(doc), &p); err != nil {
				t.Fatal(err)
			}
			pods[o.Metadata.Name] = p.Spec
		case o.Spec.Template != nil:
			pods[o.Metadata.Name] = o.Spec.Template.Spec
		}
	}
	return pods
}

func TestPodsAreRestricted(t *testing.T) {
	for name, v := range cases(t) {
		pods := podSpecs(t, mustRender(t, v))
		if len(pods) < 3 {
			t.Errorf("%s: only %d pods", name, len(pods))
		}
		for pod, s := range pods {
			if s.AutomountServiceAccountToken == nil || *s.AutomountServiceAccountToken || s.EnableServiceLinks == nil || *s.EnableServiceLinks {
				t.Errorf("%s: %s: token or service links", name, pod)
			}
			sc := s.SecurityContext
			if sc == nil || sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot || sc.SeccompProfile == nil || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || len(sc.Sysctls) > 0 {
				t.Errorf("%s: %s: %+v", name, pod, sc)
			}
			for _, c := range s.Containers {
				cc := c.SecurityContext
				if cc == nil || cc.AllowPrivilegeEscalation == nil || *cc.AllowPrivilegeEscalation || cc.ReadOnlyRootFilesystem == nil || !*cc.ReadOnlyRootFilesystem ||
					cc.Capabilities == nil || fmt.Sprint(cc.Capabilities.Drop) != "[ALL]" || len(cc.Capabilities.Add) > 0 {
					t.Errorf("%s: %s: container %s: %+v", name, pod, c.Name, cc)
				}
			}
		}
	}
}

func TestPodsHaveTimeToDrain(t *testing.T) {
	for name, v := range cases(t) {
		pods := podSpecs(t, mustRender(t, v))
		edge := pods["rel-nabat-edge"]
		sleep := edge.Containers[0].Lifecycle.PreStop.Sleep
		if sleep == nil {
			t.Fatalf("%s: no native sleep", name)
		}
		var config corev1.ConfigMap
		find(t, mustRender(t, v), "ConfigMap", "rel-nabat-edge", &config)
		var drain int64
		if _, err := fmt.Sscanf(regexp.MustCompile(`(?m)^drain: .*$`).FindString(config.Data["edge.yaml"]), "drain: %ds", &drain); err != nil {
			t.Fatalf("%s: %v in %s", name, err, config.Data["edge.yaml"])
		}
		if grace := *edge.TerminationGracePeriodSeconds; grace < sleep.Seconds+drain+10 {
			t.Errorf("%s: grace %d, sleep %d, drain %d", name, grace, sleep.Seconds, drain)
		}
	}
}

// What an autoscaler sets must not be set by an upgrade.
func TestNoReplicasBesideAnAutoscaler(t *testing.T) {
	for name, v := range cases(t) {
		files := mustRender(t, v)
		var d appsv1.Deployment
		find(t, files, "Deployment", "rel-nabat-edge", &d)
		scaled := strings.Contains(files["nabat/templates/autoscaling.yaml"], "kind:")
		if scaled != (d.Spec.Replicas == nil) {
			t.Errorf("%s: autoscaler %t, replicas %v", name, scaled, d.Spec.Replicas)
		}
	}
}

// Metrics, profiles and NATS's monitoring are never where clients connect.
func TestPublicServicesHaveNoOperationsPort(t *testing.T) {
	for name, v := range cases(t) {
		for _, doc := range documents(mustRender(t, v)) {
			var s corev1.Service
			if err := yaml.Unmarshal([]byte(doc), &s); err != nil || s.Kind != "Service" || s.Spec.ClusterIP == corev1.ClusterIPNone {
				continue
			}
			for _, p := range s.Spec.Ports {
				if p.Name == "ops" || p.Name == "monitor" {
					t.Errorf("%s: service %s has port %s", name, s.Name, p.Name)
				}
			}
		}
	}
}

// A selector cannot be changed: what it holds is fixed here.
func TestSelectorsNeverChange(t *testing.T) {
	files := mustRender(t, map[string]any{"image": map[string]any{"tag": "other"}, "commonLabels": map[string]any{"a": "b"}})
	for _, component := range []string{"edge", "control", "nats"} {
		var o struct {
			Spec struct {
				Selector struct{ MatchLabels map[string]string }
			}
		}
		kind := "Deployment"
		if component == "nats" {
			kind = "StatefulSet"
		}
		find(t, files, kind, "rel-nabat-"+component, &o)
		want := map[string]string{"app.kubernetes.io/name": "nabat", "app.kubernetes.io/instance": release, "app.kubernetes.io/component": component}
		if fmt.Sprint(o.Spec.Selector.MatchLabels) != fmt.Sprint(want) {
			t.Errorf("%s: %v", component, o.Spec.Selector.MatchLabels)
		}
	}
}
