{{- /* Names, labels and images. */ -}}

{{- define "nabat.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "nabat.edge" -}}{{ include "nabat.fullname" . }}-edge{{- end -}}
{{- define "nabat.control" -}}{{ include "nabat.fullname" . }}-control{{- end -}}
{{- define "nabat.nats" -}}{{ .Values.nats.fullnameOverride | default (printf "%s-nats" (include "nabat.fullname" .)) }}{{- end -}}

{{- define "nabat.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "nabat.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /* selector (dict "root" $ "component" "edge"): what never changes. */ -}}
{{- define "nabat.selector" -}}
app.kubernetes.io/name: {{ .root.Values.nameOverride | default .root.Chart.Name | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "nabat.labels" -}}
{{ include "nabat.selector" . }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: nabat
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* podLabels: without versions, so that a new chart alone restarts no pod. */ -}}
{{- define "nabat.podLabels" -}}
{{ include "nabat.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* metadata (dict "root" $ "component" "edge" "name" … "annotations" … "labels" … "namespace" …) */ -}}
{{- define "nabat.metadata" -}}
name: {{ .name }}
namespace: {{ .namespace | default .root.Release.Namespace }}
labels:
  {{- include "nabat.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* image (dict "root" $ "image" .Values.image): registry, repository, and digest or tag. */ -}}
{{- define "nabat.imageName" -}}
{{- $registry := .root.Values.global.imageRegistry | default .image.registry -}}
{{- with $registry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- define "nabat.image" -}}
{{- include "nabat.imageName" (dict "root" . "image" .Values.image) -}}
{{- end -}}

{{- /* pullSecrets: names from global, maps from imagePullSecrets. */ -}}
{{- define "nabat.pullSecrets" -}}
{{- $all := list -}}
{{- range .Values.global.imagePullSecrets }}{{ $all = append $all (kindIs "string" . | ternary (dict "name" .) .) }}{{ end -}}
{{- with concat $all .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
