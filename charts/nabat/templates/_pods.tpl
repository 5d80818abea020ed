{{- /* What the pods of edge and control have in common. */ -}}

{{- /* podSpec (dict "root" $ "component" "edge" "values" .Values.edge): all but containers and volumes. */ -}}
{{- define "nabat.podSpec" -}}
serviceAccountName: {{ include "nabat.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- include "nabat.pullSecrets" .root }}
{{- with .root.Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "nabat.placement" . }}
{{- with .values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.initContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* placement: where pods go. */ -}}
{{- define "nabat.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "nabat.selector" $ | nindent 8 }}
    {{- if ne $.component "nats" }}
    matchLabelKeys: [pod-template-hash]
    {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* probes: readiness follows NATS, policies and keys; liveness only the process. */ -}}
{{- define "nabat.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{- /* grace (dict "values" .Values.edge "parts" (list 5 30 15) "path" "edge"): the sum, or what was given if that is enough. */ -}}
{{- define "nabat.grace" -}}
{{- $sum := 0 -}}
{{- range .parts }}{{ $sum = add $sum . }}{{ end -}}
{{- if kindIs "invalid" .given -}}
{{- $sum -}}
{{- else if lt (int .given) (int $sum) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d: preStopSeconds, drainSeconds and slackSeconds are %d together, and a pod that is killed earlier drops its clients at once. Raise it, lower those, or leave it out" .path (int .given) (int $sum)) -}}
{{- else -}}
{{- .given | int -}}
{{- end -}}
{{- end -}}

{{- /* preStop: the native sleep; the image has no shell. */ -}}
{{- define "nabat.preStop" -}}
{{- if gt (int .) 0 }}
lifecycle:
  preStop:
    sleep: {seconds: {{ int . }}}
{{- end }}
{{- end -}}

{{- /* pdb: one bound, never both; a broken pod never holds up a drain. */ -}}
{{- define "nabat.pdb" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "nabat.metadata" . | nindent 2 }}
spec:
  {{- if not (kindIs "invalid" .pdb.minAvailable) }}
  minAvailable: {{ .pdb.minAvailable }}
  {{- else }}
  maxUnavailable: {{ .pdb.maxUnavailable }}
  {{- end }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "nabat.selector" . | nindent 6 }}
{{- end -}}
